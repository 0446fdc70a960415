"""Keep the distribution's record of the libraries that were bundled, so that scanners see them."""
