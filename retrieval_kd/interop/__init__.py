"""Write and read the forms of other tools."""
