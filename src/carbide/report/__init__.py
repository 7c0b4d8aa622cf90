"""What a run says: results.json, report.html, SARIF, JUnit, a model card."""
