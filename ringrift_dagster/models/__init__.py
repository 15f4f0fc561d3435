"""Models that were trained and promoted: which one is current. Which are candidates is the manifest's business."""
