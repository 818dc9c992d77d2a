"""Two reports that differ in names and places only.

``differences`` goes through both side by side.  A number may stand for itself,
for a thread, an address, a page or the word of a page; a string is split into
numbers and what is between them.  Everything else must be equal.
"""

import re

from spfreplay.share.anonymous import moved_content

#: what names the trace itself, and what is a name
MASKED = {"path", "sha256", "command"}
_NUMBER = re.compile(r"v1:[0-9a-f]{12}|(?:0x)?[0-9a-f]*[0-9][0-9a-f]*")


class Relation:
    """What may stand where in the report on an anonymous trace."""

    def __init__(self, found):
        self.found = found
        self.paths = found.names.paths

    def differences(self, old, new, where="$"):
        """Yield the places where the second report is not the first with other names."""
        if isinstance(old, dict) and isinstance(new, dict):
            yield from [] if old.keys() == new.keys() else [f"{where}: keys"]
            for key in old.keys() & new.keys() - MASKED:
                yield from self.differences(old[key], new[key], f"{where}.{key}")
        elif isinstance(old, list) and isinstance(new, list):
            yield from [] if len(old) == len(new) else [f"{where}: length"]
            for n, pair in enumerate(zip(old, new, strict=False)):
                yield from self.differences(*pair, f"{where}[{n}]")
        elif isinstance(old, str) and isinstance(new, str):
            if not self.same_text(old, new):
                yield f"{where}: {old!r} {new!r}"
        elif type(old) is not type(new):
            yield f"{where}: {old!r} {new!r}"
        elif type(old) is int and not self.same_number(old, new):
            yield f"{where}: {old:#x} {new:#x}"
        elif type(old) is not int and old != new:
            yield f"{where}: {old!r} {new!r}"

    def same_text(self, old, new):
        if self.paths.get(old, old) == new:
            return True
        for path, name in self.paths.items():
            base, short = path.rpartition("/")[2], name.rpartition("/")[2]
            old = old.replace(path, name).replace(base, short)
        if _NUMBER.split(old) != _NUMBER.split(new):
            return False
        pairs = zip(_NUMBER.findall(old), _NUMBER.findall(new), strict=True)
        return all(self.same_token(one, two) for one, two in pairs)

    def same_token(self, one, two):
        if one == two or one.startswith("v1:"):
            return True
        if one.isdecimal() and two.isdecimal() and self.same_number(int(one), int(two)):
            return True
        return self.same_number(int(one, 16), int(two, 16))

    def same_number(self, old, new):
        return old == new or any(stands(old) == new for stands in self.meanings())

    def meanings(self):
        addresses = self.found.addresses

        def address(value):
            return addresses.address(value) if value in addresses else None

        def end(value):
            return addresses.address(value - 1) + 1 if value - 1 in addresses else None

        def page(value):
            return addresses.page(value) if value << 12 in addresses else None

        def last_page(value):
            return page(value - 1) + 1 if page(value - 1) is not None else None

        def word(value):
            content = value >> 16
            try:
                return moved_content(content, addresses) << 16 | value & 0xFFFF
            except KeyError:
                return None

        def directory(shift):
            """Return what maps the first address of a directory to its new one."""
            firsts = {old >> shift: new >> shift for old, _, new in addresses.moves()}
            return lambda value: (
                firsts[value >> shift] << shift
                if not value & (1 << shift) - 1 and value >> shift in firsts
                else None
            )

        directories = (directory(30), directory(39))
        return (self.found.names.tid, address, end, page, last_page, word, *directories)
