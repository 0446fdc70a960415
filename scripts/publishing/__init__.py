"""Publishing and verifying an image: what `scripts/publish.py` and `scripts/verify.py` share."""
