"""What the shop sells."""

from dataclasses import dataclass

MOST_OF_A_PIECE = 10
"""In one order; the merge policy in policies.toml holds the same number."""


@dataclass(frozen=True)
class Piece:
    """One article; `shape` names a drawing in templates/pieces.html."""

    sku: str
    name: str
    shape: str
    glaze: str
    ground: str
    cents: int
    words: str


CATALOG = {
    piece.sku: piece
    for piece in (
        Piece("morning-cup", "Morning cup", "cup", "#c2683d", "#f3ddcf", 2800, "30 cl, and the day's first quiet."),
        Piece("pour-jug", "Pouring jug", "jug", "#5d7f78", "#d9e5e0", 5400, "A lip that does not drip."),
        Piece("supper-bowl", "Supper bowl", "bowl", "#d9a441", "#f6e9c9", 3600, "Deep enough for a second helping."),
        Piece("tall-vase", "Tall vase", "vase", "#44546d", "#d8dee8", 7200, "For branches, or for nothing at all."),
        Piece("side-plate", "Side plate", "plate", "#9c4a4a", "#f1d9d6", 2200, "Toast size. Stacks by the dozen."),
        Piece("tea-pot", "Tea pot", "pot", "#6b705c", "#e2e4d6", 8900, "Four cups, one strainer, no hurry."),
    )
}


def euros(cents: int) -> str:
    """A price as it is printed."""
    return f"€ {cents // 100}.{cents % 100:02d}"
