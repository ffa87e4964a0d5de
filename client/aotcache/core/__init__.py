"""Pure work: relocation, packs, places, trust, settling. No clock, no disk, no network."""
