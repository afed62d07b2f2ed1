"""What each step does, apart from when: functions that read artifacts and fill one folder."""
