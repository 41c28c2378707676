"""How conversations become text: as the engine will render them, the same in every stage."""
