"""Encoded images, decoded ahead of a training by processes of their own."""
