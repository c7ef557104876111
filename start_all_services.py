"""Starts ShopSphere: sets up `.venv`, starts the three services, and stops them on Ctrl-C.

Every Python version can parse this file, so an unsupported one prints which versions it needs.
"""

import sys

if not (3, 11) <= sys.version_info < (3, 15):
    sys.exit(
        "ShopSphere needs Python 3.11 to 3.14, but this is Python %d.%d. "
        "Install one of those from https://www.python.org/downloads/ and use it."
        % sys.version_info[:2]
    )

if __name__ == "__main__":
    from shopsphere.tools.launcher import main

    main()
