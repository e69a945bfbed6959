"""Output for people: lines, tables, instances and timelines on a terminal or in a file."""
