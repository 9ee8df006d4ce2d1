-- +goose Up
CREATE TABLE outbox (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    id      TEXT NOT NULL UNIQUE,
    at      TEXT NOT NULL,
    type    TEXT NOT NULL,
    subject TEXT NOT NULL,
    party   TEXT NOT NULL,
    data    TEXT NOT NULL
);

CREATE INDEX outbox_at ON outbox (at);

CREATE TABLE audit (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    at      TEXT NOT NULL,
    actor   TEXT NOT NULL,
    name    TEXT NOT NULL,
    action  TEXT NOT NULL,
    subject TEXT NOT NULL,
    detail  TEXT NOT NULL
);
CREATE INDEX audit_subject ON audit (subject, seq);
-- +goose StatementBegin
CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit log only grows'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'the audit log only grows'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER audit_no_replace BEFORE INSERT ON audit WHEN EXISTS (SELECT 1 FROM audit WHERE seq = NEW.seq)
BEGIN SELECT RAISE(ABORT, 'the audit log only grows'); END;
-- +goose StatementEnd

CREATE TABLE idempotency (
    subject TEXT NOT NULL,
    key     TEXT NOT NULL,
    request TEXT NOT NULL,
    result  TEXT NOT NULL,
    at      TEXT NOT NULL,
    PRIMARY KEY (subject, key)
) WITHOUT ROWID;
CREATE INDEX idempotency_at ON idempotency (at);

CREATE TABLE webhook (
    id      TEXT PRIMARY KEY,
    url     TEXT NOT NULL,
    secret  TEXT NOT NULL,
    types   TEXT NOT NULL,
    at      TEXT NOT NULL,
    paused  TEXT NOT NULL DEFAULT '',
    after   INTEGER NOT NULL
);

CREATE TABLE delivery (
    webhook  TEXT NOT NULL REFERENCES webhook (id) ON DELETE CASCADE,
    seq      INTEGER NOT NULL,
    state    TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    due      TEXT NOT NULL,
    answer   TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (webhook, seq)
) WITHOUT ROWID;
CREATE INDEX delivery_due ON delivery (webhook, state, due);
CREATE INDEX delivery_seq ON delivery (seq);
