"""What users read: tables and panic reports."""
