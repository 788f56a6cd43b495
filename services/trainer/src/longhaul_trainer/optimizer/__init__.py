"""How parameters move: AdamW, its learning-rate schedule and gradient scaling."""
