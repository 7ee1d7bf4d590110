//! The model gateway: one API for all models.
