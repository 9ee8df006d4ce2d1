-- +goose Up
CREATE TABLE party (
    id      TEXT PRIMARY KEY,
    name    TEXT NOT NULL,
    at      TEXT NOT NULL,
    version INTEGER NOT NULL DEFAULT 1
) WITHOUT ROWID;

CREATE TABLE user (
    id       TEXT PRIMARY KEY,
    email    TEXT NOT NULL UNIQUE,            -- in lower case
    name     TEXT NOT NULL,
    role     TEXT NOT NULL,
    party    TEXT REFERENCES party (id),      -- NULL: none, as staff have
    password TEXT NOT NULL DEFAULT '',        -- argon2id; empty: none yet
    active   INTEGER NOT NULL DEFAULT 1,
    at       TEXT NOT NULL,
    version  INTEGER NOT NULL DEFAULT 1
) WITHOUT ROWID;
CREATE INDEX user_party ON user (party);

-- Of sessions, invitations and API keys only the SHA-256 is kept.
CREATE TABLE session (
    hash    BLOB PRIMARY KEY,
    id      TEXT NOT NULL UNIQUE,
    user    TEXT NOT NULL REFERENCES user (id) ON DELETE CASCADE,
    at      TEXT NOT NULL,
    seen    TEXT NOT NULL,
    agent   TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX session_user ON session (user);

CREATE TABLE invitation (
    hash    BLOB PRIMARY KEY,
    user    TEXT NOT NULL REFERENCES user (id) ON DELETE CASCADE,
    expires TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE api_key (
    id    TEXT PRIMARY KEY,
    hash  BLOB NOT NULL UNIQUE,
    name  TEXT NOT NULL,
    role  TEXT NOT NULL,
    party TEXT REFERENCES party (id),
    maker TEXT NOT NULL,                      -- subject of whoever made it
    at    TEXT NOT NULL,
    used  TEXT NOT NULL DEFAULT ''            -- to the minute
) WITHOUT ROWID;
