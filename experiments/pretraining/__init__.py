"""How the bundled backbone is made: the teacher, and what the student learns from it."""
