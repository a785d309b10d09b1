"""Reading: claims, tables and figures as pure functions of frames. Never touches a running trial, nor torch or ray."""
