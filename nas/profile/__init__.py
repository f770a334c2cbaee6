"""What is known of a search before it runs: costs, architectures, memory, whether targets can be met."""
