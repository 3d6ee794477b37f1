"""Things to try Headstart with; nothing in the served path imports from here."""
