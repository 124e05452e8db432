"""``python -m fmlab.nodes local | link | node``: what ``make federation`` and ``make node`` call."""

from fmlab.nodes.commands import main

if __name__ == "__main__":
    main()
