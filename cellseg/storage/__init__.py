"""Files written completely or not at all, and read up to a size limit."""
