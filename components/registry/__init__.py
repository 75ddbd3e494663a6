"""Model versions and who is the champion."""
