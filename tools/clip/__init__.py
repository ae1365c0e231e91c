"""The pieces of the street that ``tools/render_clip.py`` films; all geometry is made here."""
