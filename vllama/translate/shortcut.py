"""Until C's arrives."""


class Plain:
    def __init__(self) -> None:
        self._around: dict[str, tuple[bytes, bytes]] = {}

    def learn(self, block: bytes, field: str, text: str) -> None:
        import msgspec

        inner = msgspec.json.encode(text)[1:-1]
        mark = b'"%b":"' % field.encode()
        head, found, rest = block.partition(mark)
        if found and rest.startswith(inner + b'"'):
            self._around[field] = (head + mark, rest[len(inner) :])

    def find(self, block: bytes) -> tuple[str, bytes] | None:
        for field, (head, tail) in self._around.items():
            if block.startswith(head) and block.endswith(tail) and len(block) >= len(head) + len(tail):
                raw = block[len(head) : -len(tail)]
                if b'"' not in raw.replace(b'\\\\', b"").replace(b'\\"', b""):
                    return field, raw
        return None
