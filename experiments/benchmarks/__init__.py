"""Every speed that the README claims, against the same job written plainly from the documentation."""
