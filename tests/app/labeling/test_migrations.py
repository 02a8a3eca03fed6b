"""From the first schema to the newest, with data in it, on both databases."""

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

from app.labeling.collecting import ExportFilter, collect_rankings
from app.labeling.database import MIGRATIONS, Database
from app.labeling.queue import MustRead, claim, recount
from app.labeling.site import Settings, open_site
from app.labeling.tables import Base
from app.labeling.views import latest

OLD_DATA = """
INSERT INTO person VALUES (1, 'lea', 'x', 'labeler', 'train', 1.0, NULL),
    (2, 'ben', 'x', 'labeler', 'train', 1.0, NULL);
INSERT INTO site_setting VALUES ('pseudonym_salt', 'salt'), ('local_secret', 'secret');
INSERT INTO instruction_set VALUES (1, 'instructgpt', 1, 'Be fair.', 1.0);
INSERT INTO form_schema VALUES (1, 'short', 1, '{"likert": true}', 1.0);
INSERT INTO batch (id, name, purpose, cohorts, overlap, lease_minutes, ties_allowed, shuffle_seed, instruction_set_id,
    form_schema_id, state, created_at) VALUES (1, 'old', 'ranking', '["train"]', 2, 60, true, 0, 1, 1, 'open', 1.0);
INSERT INTO prompt (id, messages, text_hash, meta) VALUES (1, '[{"role": "user", "content": "Which?"}]', 'h', '{}');
INSERT INTO response (id, prompt_id, text, sampling, is_demonstration) VALUES (1, 1, 'a', '{}', false),
    (2, 1, 'b', '{}', false);
INSERT INTO task (id, batch_id, prompt_id, position, need, n_open, n_done) VALUES (1, 1, 1, 0, 2, 0, 1);
INSERT INTO task_response (task_id, position, response_id) VALUES (1, 0, 1), (1, 1, 2);
INSERT INTO assignment VALUES (1, 1, 1, 'submitted', 'train', '[1, 0]', 3600.0, 1.0, 50.0);
INSERT INTO submission (id, assignment_id, revision, idempotency_key, tiers, active_seconds, instruction_set_id,
    form_schema_id, created_at) VALUES (1, 1, 1, 'key', '[[1], [0]]', 49.0, 1, 1, 50.0);
INSERT INTO response_rating VALUES (1, 0, 2, 3, '{}'), (1, 1, 1, 6, '{}');
INSERT INTO prompt_rating VALUES (1, '{}', NULL, NULL)
"""


@pytest.fixture
def old_database(database_url) -> Database:
    """The first schema with one answered task."""
    database = Database(database_url)
    database.upgrade("0001")
    with database.write() as session:
        for statement in OLD_DATA.split(";\n"):
            session.execute(text(statement.replace(":", "\\:")))
        if not database.is_sqlite:  # ids were given by hand
            session.execute(text("SELECT setval('assignment_id_seq', 10)"))
    return database


def test_data_of_the_first_schema_is_kept(old_database, database_url, tmp_path):
    old_database.close()
    site = open_site(Settings(folder=tmp_path, database=database_url))
    with site.database.read() as session:
        ranking = collect_rankings(session, ExportFilter())[0]
        assert (ranking.responses, ranking.ranks, ranking.likert) == (["a", "b"], [2, 1], [3, 6])
        assert latest(session, 1).extra is False and recount(session) == []
    with site.database.write() as session:
        assert isinstance(claim(session, 2, 100.0), MustRead)  # ben has read nothing
        session.execute(text("INSERT INTO instruction_read VALUES (2, 1, 1.0)"))
        assert claim(session, 2, 100.0).task_id == 1
        read = (
            session.execute(text("SELECT person_id FROM instruction_read ORDER BY person_id"))
            .scalars()
            .all()
        )
        assert read == [1, 2]  # lea answered, so lea had read
    site.database.close()


def test_migrations_and_tables_say_the_same(old_database):
    old_database.upgrade()
    with old_database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []
    old_database.close()


def test_upgrading_twice_changes_nothing(old_database):
    for _ in range(2):
        old_database.upgrade()
    heads = ScriptDirectory(str(MIGRATIONS)).get_heads()
    assert len(heads) == 1
    with old_database.read() as session:
        stored = session.execute(text("SELECT version_num FROM alembic_version")).scalars().all()
        assert stored == heads
    old_database.close()
