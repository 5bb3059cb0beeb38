"""How trained models are measured."""
