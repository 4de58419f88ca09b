//! What a OneGen server has counted itself.

use crate::client::Client;

/// All positions that a server has forwarded since it started, for answers and for embeddings.
pub(super) async fn forwarded(server: &Client) -> Result<u64, String> {
    let metrics = server.text("/metrics").await?;
    let missing = || "/metrics tells no onegen_forwarded_tokens_total".to_owned();
    sum(&metrics).ok_or_else(missing)
}

fn sum(metrics: &str) -> Option<u64> {
    let counts = metrics.lines().filter_map(|line| {
        let (name, count) = line.rsplit_once(' ')?;
        let name = name.split('{').next()?;
        let counts = [
            "onegen_forwarded_tokens_total",
            "onegen_embedded_tokens_total",
        ]
        .contains(&name);
        counts.then(|| count.parse::<u64>().ok())?
    });
    counts.reduce(|sum, one| sum + one)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwarded_positions_are_the_sum_of_all_kinds() {
        let metrics = "# HELP x\nonegen_forwarded_tokens_total{kind=\"prompt\"} 40\n\
            onegen_forwarded_tokens_total{kind=\"passage\"} 2\nonegen_other 9\nonegen_embedded_tokens_total 7\n";
        assert_eq!(sum(metrics), Some(49));
        assert_eq!(sum("onegen_other 9\n"), None);
    }
}
