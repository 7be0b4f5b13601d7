import psycopg, json, pytest


def test_x(db, role, dsn, worker_dsn):
    ann = role("ann", create_on=["public"]).connect()
    ann.execute(
        "create table t as select i as a, i::float8/7 as b, (i%3)::text as c, i%2=0 as y, now() as ts, '1.5'::numeric(10,2) n from generate_series(1,100) i"
    )
    print(ann.execute("select * from kwdbml.algorithms() limit 2").fetchall())
    print(ann.execute("select kwdbml.create_training_pipeline('p','hist_gradient_boosting','y','t')").fetchall())
    print(ann.execute("select * from kwdbml.show_training_pipelines()").fetchall())
    j = ann.execute(
        'select kwdbml.train_model(\'p\',\'m\',\'select * from t -- hi\n ; -- x\',true,true, \'{"env": {"A":"b"}, "priority":"high"}\')'
    ).fetchone()[0]
    j2 = ann.execute("select kwdbml.train_model('p','m2','t',true,true)").fetchone()[0]
    print(ann.execute("select * from kwdbml.show_job(%s)", (j,)).fetchall())
    print(ann.execute("select * from kwdbml.jobs").fetchall())
    for q in [
        "select kwdbml.train_model('p','m','delete from t',true,true)",
        "select kwdbml.train_model('p','m','with x as (delete from t returning *) select * from x',true,true)",
        "select kwdbml.train_model('p','m','select * from t for update',true,true)",
        "select kwdbml.train_model('p','m','select a from t',true,true)",
        "select kwdbml.train_model('p','m','nope',true,true)",
        "select kwdbml.train_model('p','m','select 1; select 2',true,true)",
        "select kwdbml.train_model('q','m','t',true,true)",
        "select kwdbml.train_model('p','m','t',null,true)",
        "select kwdbml.train_model('p','1m','t',true,true)",
        "select kwdbml.train_model('p','zz.m','t',true,true)",
        "select kwdbml.train_model('p','m','t',true,true,'{\"foo\":1}')",
        "select * from kwdbml.show_jobs(array['x'])",
        "select * from kwdbml.show_job('6f0e7f4e-0000-4000-8000-000000000000')",
        "select kwdbml.train_model('p','m','selec * from t',true,true)",
        "select kwdbml.train_model('p','m','select * from t where z=1',true,true)",
        "select * from kwdbml.show_job('abc')",
        "select kwdbml.remove_job('abc')",
        "select kwdbml.train_model('p','m','show all',true,true)",
        "select kwdbml.train_model('p','m','select * into x from t',true,true)",
    ]:
        with pytest.raises(psycopg.Error) as e:
            ann.execute(q)
        print(e.value.sqlstate, e.value.diag.message_primary, "|", e.value.diag.message_hint)
    for f in [
        "show_jobs()",
        "show_jobs('public.m')",
        "show_jobs('m',2)",
        "show_jobs('m',array['TRAIN'],array['*'])",
        "show_jobs('m','{TRAIN}','{*}')",
        "show_jobs(array['RUNNING'])",
        "show_jobs('{RUNNING}')",
        "show_jobs('m','2','{TRAIN}')",
        "show_jobs(job_status=>array['running'])",
        "show_jobs('m',NULL,'{TRAIN}')",
        "show_jobs('*')",
        "show_jobs(job_type=>'{}')",
    ]:
        print(f, len(ann.execute(f"select * from kwdbml.{f}").fetchall()))
    print(db.execute("explain select * from kwdbml.show_jobs() order by created desc limit 50").fetchall())
    w = psycopg.connect(worker_dsn, autocommit=True)
    for _ in range(2):
        c = w.execute(
            "select job_id, attempt, token, run_name from kwdbml.worker_claim('w', '{local}', '30s')"
        ).fetchone()
        print(c)
        print(w.execute("select kwdbml.worker_spec(%s,%s)", (c[0], c[2])).fetchone())
        with w.transaction(force_rollback=True):
            st = w.execute("select * from kwdbml.worker_stage(%s,%s)", (c[0], c[2])).fetchone()
            print(st)
            w.execute("select set_config('search_path',%s,true)", (st[1],))
            print(w.execute(st[0]).fetchone())
    print(ann.execute("select kwdbml.cancel_job(%s)", (j,)).fetchall())
    print(ann.execute("select kwdbml.wait_job(%s,'1s')", (j,)).fetchall())
    print(ann.execute("select id, phase,status,error, duration from kwdbml.jobs").fetchall())
    print(ann.execute("call kwdbml.wait_for_job(%s,'0.1s')", (j2,)).fetchall())
    b = role("ann2").connect(autocommit=False)
    with pytest.raises(psycopg.Error) as e:
        b.execute("select 1")
        b.execute("call kwdbml.wait_for_job(%s,'0.1s')", (j2,))
    print(e.value.sqlstate, e.value)
    c = ann
    with c.transaction():
        jj = c.execute("select kwdbml.train_model('p','m4','t',true,true)").fetchone()[0]
        with pytest.raises(psycopg.Error) as e:
            c.execute("select kwdbml.wait_job(%s)", (jj,))
        print(e.value.sqlstate, e.value)
    from kwdbml.dataset import Reader
    import pyarrow as pa, pathlib, time
    with psycopg.connect(worker_dsn, autocommit=True) as w2:
        ann.execute("select kwdbml.train_model('p','m5','select * from t',true,true)")
        ann.execute("select kwdbml.train_model('p','m6','t',true,true)")
        for _ in range(3):
          c = w2.execute("select job_id, attempt, token, run_name from kwdbml.worker_claim('w', '{local}', '30s')").fetchone()
          t=time.time()
          print(Reader(worker_dsn).stage(str(c[0]),str(c[2]),pathlib.Path('/tmp/x.arrow'),lambda n: None).rows, time.time()-t)
          print(pa.ipc.open_file('/tmp/x.arrow').read_all().schema)
    w.close()
