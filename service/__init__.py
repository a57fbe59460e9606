"""The bnrecal server: uploads, durable recalibrations, execution, reports."""
