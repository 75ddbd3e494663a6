"""Measuring models, alone and against the champion."""
