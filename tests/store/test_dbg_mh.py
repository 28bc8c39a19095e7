import tests.store.test_nameless as T
globals().update({k: v for k, v in vars(T).items() if not k.startswith("test_")})
async def test_x(service, ingestor, database):
    await written(ingestor, "2001")
    print("QQ", await database.rows("select participant_name, name_asked_at, last_inbound_at from conversation"))
    await record(service, name(name=""))
    print("QQ", await database.rows("select participant_name, name_asked_at, last_inbound_at from conversation"))
    print("QQ", await asked(service))
    print("QQ", await database.rows("select participant_name, name_asked_at, participant_name is null from conversation"))
