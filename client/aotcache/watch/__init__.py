"""Watch: publish trees as they become complete."""
