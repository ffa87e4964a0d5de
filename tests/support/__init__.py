"""What tests share: the real servers they run against."""
