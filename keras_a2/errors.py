"""The one exception whose text is meant for the person at the keyboard."""


class UserError(Exception):
    """What went wrong, where, and what to do, in one line: names of files and columns may bring line breaks along."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))
