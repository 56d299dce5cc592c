"""Numbers with their nouns, for messages."""


def counted(number: int, noun: str, plural: str = "", *, spec: str = "") -> str:
    """`1 video`, `2 videos`; `plural` is for nouns that take more than an s; `spec` formats the number, such as ","."""
    return f"{number:{spec}} {noun if number == 1 else plural or f'{noun}s'}"
