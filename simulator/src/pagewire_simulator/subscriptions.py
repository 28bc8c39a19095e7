"""The webhook fields that an app may subscribe, by host; Graph refuses any other.

Source: the enums of Meta's generated SDKs, and the webhook reference for what they lack.
"""

PAGE_FIELDS = frozenset(
    {
        "feed",
        "inbox_labels",
        "leadgen",
        "live_videos",
        "mention",
        "message_context",
        "message_deliveries",
        "message_echoes",
        "message_edits",
        "message_mention",
        "message_reactions",
        "message_reads",
        "messages",
        "messaging_account_linking",
        "messaging_appointments",
        "messaging_checkout_updates",
        "messaging_customer_information",
        "messaging_feedback",
        "messaging_game_plays",
        "messaging_handovers",
        "messaging_integrity",
        "messaging_optins",
        "messaging_optouts",
        "messaging_payments",
        "messaging_policy_enforcement",
        "messaging_postbacks",
        "messaging_pre_checkouts",
        "messaging_referrals",
        "ratings",
        "response_feedback",
        "send_cart",
        "standby",
        "videos",
    }
)
INSTAGRAM_FIELDS = frozenset(
    {
        "comments",
        "live_comments",
        "mentions",
        "message_edit",
        "message_reactions",
        "messages",
        "messaging_handover",
        "messaging_optins",
        "messaging_postbacks",
        "messaging_referral",
        "messaging_seen",
        "standby",
        "story_insights",
        "story_reactions",
    }
)
