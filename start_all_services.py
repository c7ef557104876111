"""Start ShopSphere: set up `.venv`, start the three services, end all three on Ctrl-C.

Any Python can read this file, so that an old one says in a sentence that it is too old.
"""

import sys

if sys.version_info < (3, 11):
    sys.exit(
        "ShopSphere cannot run: it needs Python 3.11 or newer, and this is %d.%d. Get one from "
        "https://www.python.org/downloads/ and start it with that." % sys.version_info[:2]
    )

if __name__ == "__main__":
    try:
        from shopsphere.tools.launcher import main

        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
