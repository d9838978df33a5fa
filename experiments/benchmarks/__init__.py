"""Every speed in docs/speed.md, against the same job written plainly from the documentation."""
