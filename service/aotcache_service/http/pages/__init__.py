"""The pages for operators: rendered here, without scripts."""
