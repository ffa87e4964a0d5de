"""What both sides must agree on: names, platform, recipe, record, manifest, API bodies. No I/O."""
