"""``python -m retrieval_kd`` is ``retrieval-kd``."""

import sys

from retrieval_kd.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
