"""Which installed packages are damaged: every file that a package brought, compared with the package's own list.

Standard library only.
"""

import base64
import csv
import hashlib

from lockfile import normal

# The set-up writes its own kernel there.
OURS = "share/jupyter/kernels/"


def packages(site):
    """{name: its .dist-info folder} of everything that is installed in `site`."""
    return {normal(folder.name.split("-")[0]): folder for folder in sorted(site.glob("*.dist-info"))}


def damaged(site, names, checksums=False):
    """{name: what is wrong with it} of the packages `names`; by the files' sizes, or by their checksums."""
    found = packages(site)
    wrong = {name: trouble(site, found.get(name), checksums) for name in names}
    return {name: what for name, what in wrong.items() if what}


def trouble(site, folder, checksums):
    """The first thing that is wrong with one package, in words, or None."""
    if folder is None:
        return "it is gone"
    try:
        with (folder / "RECORD").open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
        for name, digest, size in rows:
            # Without a size: what Python compiled, and the list itself.
            if not size or OURS in name:
                continue
            path = site / name
            if path.stat().st_size != int(size) or (checksums and digest != checksum(path)):
                return f"{name} is not as it came"
    except FileNotFoundError as error:
        return f"{error.filename} is missing"
    except (OSError, ValueError) as error:
        return f"{folder.name} cannot be read: {error}"
    return None if rows else f"{folder.name}/RECORD is empty"


def checksum(path):
    """A file's checksum as RECORD writes it."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
    return "sha256=" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
