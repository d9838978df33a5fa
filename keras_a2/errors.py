"""The one exception whose text is meant for the person at the keyboard."""


class UserError(Exception):
    """What is wrong, where, and what to do. The scripts print it and exit with code 2.

    Always one line, although the names of files and columns may bring line breaks along.
    """

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))
