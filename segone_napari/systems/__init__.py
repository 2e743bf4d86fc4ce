"""Systems: whatever turns a volume and prompts into masks."""
