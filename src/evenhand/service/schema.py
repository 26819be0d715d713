"""The tables of the store, in the SQL that SQLite and PostgreSQL share.

`events` is append-only. Each row's `link` is the SHA-256 of the row before, its own place and its body's digest, so
that a changed, removed or exchanged row is found. The digest is salted: an erasure takes body and salt away, and the
chain still holds. `rollups` and `bins` say by day, tenant, model, category and kind what readers would else have to
count; they move in the transaction that adds the events. Times are milliseconds since 1970, UTC.
"""

TABLES = (
    """CREATE TABLE IF NOT EXISTS events (
        seq {big} PRIMARY KEY, tenant TEXT NOT NULL, id TEXT NOT NULL, kind TEXT NOT NULL,
        conversation TEXT, draft TEXT, model TEXT NOT NULL, category TEXT NOT NULL, actor TEXT,
        at_ms {big} NOT NULL, received_ms {big} NOT NULL, up INTEGER, length {big}, distance {real}, latency_ms {big},
        body TEXT, salt TEXT, digest TEXT NOT NULL, link TEXT NOT NULL, UNIQUE (tenant, id))""",
    "CREATE INDEX IF NOT EXISTS events_by_kind ON events (tenant, kind, seq)",
    "CREATE INDEX IF NOT EXISTS events_by_draft ON events (tenant, draft) WHERE kind = 'draft'",
    "CREATE INDEX IF NOT EXISTS events_by_conversation ON events (tenant, conversation)",
    """CREATE TABLE IF NOT EXISTS rollups (
        day TEXT, tenant TEXT, model TEXT, category TEXT, kind TEXT, count {big} NOT NULL, ups {big} NOT NULL,
        length_sum {big} NOT NULL, length_count {big} NOT NULL, distance_sum {real} NOT NULL,
        distance_count {big} NOT NULL, latency_sum {big} NOT NULL, latency_count {big} NOT NULL,
        PRIMARY KEY (day, tenant, model, category, kind))""",
    """CREATE TABLE IF NOT EXISTS bins (
        day TEXT, tenant TEXT, model TEXT, category TEXT, measure TEXT, bin INTEGER, count {big} NOT NULL,
        PRIMARY KEY (day, tenant, model, category, measure, bin))""",
    """CREATE TABLE IF NOT EXISTS notices (
        day TEXT, tenant TEXT, reason TEXT, count {big} NOT NULL, PRIMARY KEY (day, tenant, reason))""",
    """CREATE TABLE IF NOT EXISTS keys (
        id TEXT PRIMARY KEY, tenant TEXT NOT NULL, role TEXT NOT NULL, digest TEXT NOT NULL,
        made_ms {big} NOT NULL, revoked_ms {big})""",
    "CREATE TABLE IF NOT EXISTS sessions (digest TEXT PRIMARY KEY, key_id TEXT NOT NULL, until_ms {big} NOT NULL)",
    "CREATE TABLE IF NOT EXISTS records (seq {serial}, topic TEXT NOT NULL, at_ms {big} NOT NULL, content TEXT NOT NULL)",
    "CREATE INDEX IF NOT EXISTS records_by_topic ON records (topic, seq)",
    "CREATE TABLE IF NOT EXISTS watches (tenant TEXT PRIMARY KEY, version {big} NOT NULL, content TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS head (one INTEGER PRIMARY KEY, seq {big} NOT NULL, link TEXT NOT NULL, received_ms {big} NOT NULL)",
    "INSERT INTO head VALUES (1, 0, '{nothing}', 0) ON CONFLICT DO NOTHING",
)

# What the first event's link follows.
NOTHING = "0" * 64

# Every column of `events` with its type, in the order in which readers select them.
EVENT_COLUMNS = {
    "seq": "{big}",
    "tenant": "TEXT",
    "id": "TEXT",
    "kind": "TEXT",
    "conversation": "TEXT",
    "draft": "TEXT",
    "model": "TEXT",
    "category": "TEXT",
    "actor": "TEXT",
    "at_ms": "{big}",
    "received_ms": "{big}",
    "up": "INTEGER",
    "length": "{big}",
    "distance": "{real}",
    "latency_ms": "{big}",
    "body": "TEXT",
    "salt": "TEXT",
    "digest": "TEXT",
    "link": "TEXT",
}
