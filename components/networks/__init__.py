"""Recurrent networks: layers, losses and the models built from them."""
