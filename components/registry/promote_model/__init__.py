"""promote_model: the challenger becomes the champion, traffic first and the registry's alias after."""
