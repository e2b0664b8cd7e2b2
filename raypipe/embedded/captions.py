"""What a chain says: the view it looks at, what it sees there, and the answer."""

_SENTENCES = (
    "The {view} view shows the {attribute}: {value}.",
    "In the {view} view the {attribute} is {value}.",
)


def reasoning(view: str, attribute: str, value: str, *, phrasing: int = 0) -> str:
    """One sentence that names the view first, so that what follows depends on the view."""
    sentence = _SENTENCES[phrasing % len(_SENTENCES)]
    return sentence.format(view=view, attribute=attribute.replace("_", " "), value=value)
