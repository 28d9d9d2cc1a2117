"""Extracts members of a wheel or an sdist: extract.py ARCHIVE DEST PREFIX...

Extracts each member whose name equals a prefix or is below one, but not below `!PREFIX`; the longest that matches decides.
Names keep their folders. Fails when a prefix matches nothing, so that a changed package is noticed at once.
"""

import os
import shutil
import sys
import tarfile
import zipfile


def members(path):
    """Yields (name, opener) for each file in the archive."""
    if zipfile.is_zipfile(path):
        archive = zipfile.ZipFile(path)
        for info in archive.infolist():
            if not info.is_dir():
                yield info.filename, lambda info=info: archive.open(info)
    else:
        archive = tarfile.open(path)
        for info in archive:
            if info.isfile():
                yield info.name, lambda info=info: archive.extractfile(info)


def main(path, dest, prefixes):
    dest = os.path.realpath(dest)
    missing = set(prefixes)
    for name, opened in members(path):
        matching = [p for p in prefixes if (name + "/").startswith(p.lstrip("!") + "/")]
        if not matching:
            continue
        prefix = max(matching, key=lambda p: len(p.lstrip("!")))
        missing.discard(prefix)
        if prefix.startswith("!"):
            continue
        target = os.path.realpath(os.path.join(dest, name))
        if not target.startswith(dest + os.sep):
            sys.exit(f"refused: the member is outside of the folder: {name}")
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with opened() as source, open(target, "wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
    if missing:
        sys.exit(f"not in {os.path.basename(path)}: {', '.join(sorted(missing))}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
