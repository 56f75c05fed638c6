BEGIN TRANSACTION;
CREATE TABLE adapter (
	id INTEGER NOT NULL, 
	namespace VARCHAR NOT NULL, 
	name VARCHAR NOT NULL, 
	title VARCHAR NOT NULL, 
	description VARCHAR NOT NULL, 
	card VARCHAR NOT NULL, 
	kind VARCHAR NOT NULL, 
	created VARCHAR NOT NULL, head_id INTEGER, updated VARCHAR DEFAULT '' NOT NULL, settings VARCHAR DEFAULT '{}' NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (namespace, name)
);
INSERT INTO "adapter" VALUES(1,'me','ink','Ink Wash','drawings in ink','','style','2026-11-23T01:51:56Z',2,'2026-11-23T01:51:56Z','{}');
INSERT INTO "adapter" VALUES(2,'me','both','','','','other','2026-11-23T01:51:56Z',3,'2026-11-23T02:58:56Z','{}');
CREATE TABLE adopted (
	path VARCHAR NOT NULL, 
	inode INTEGER NOT NULL, 
	size INTEGER NOT NULL, 
	mtime_ns INTEGER NOT NULL, 
	version VARCHAR NOT NULL, 
	PRIMARY KEY (path)
);
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0003');
CREATE TABLE alias (
	adapter_id INTEGER NOT NULL, 
	name VARCHAR NOT NULL, 
	number INTEGER NOT NULL, 
	PRIMARY KEY (adapter_id, name), 
	FOREIGN KEY(adapter_id) REFERENCES adapter (id)
);
INSERT INTO "alias" VALUES(1,'prod',1);
INSERT INTO "alias" VALUES(1,'old',1);
CREATE TABLE condemned (
	sha256 VARCHAR NOT NULL, 
	since VARCHAR NOT NULL, 
	PRIMARY KEY (sha256)
);
CREATE TABLE document (
	id INTEGER NOT NULL, 
	version_id INTEGER NOT NULL, 
	name VARCHAR NOT NULL, 
	sha256 VARCHAR NOT NULL, 
	size INTEGER NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (version_id, name), 
	FOREIGN KEY(version_id) REFERENCES version (id)
);
CREATE TABLE event (
	id INTEGER NOT NULL, 
	time VARCHAR NOT NULL, 
	actor VARCHAR NOT NULL, 
	action VARCHAR NOT NULL, 
	subject VARCHAR NOT NULL, 
	detail VARCHAR NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "event" VALUES(1,'2026-11-23T01:51:56Z','someone','publish','me/ink@1','{"digest": "sha256:fa9270f8ba59de952824a9059362590ae0ce2da4bc568c87cba816d0e7eb7ae6"}');
INSERT INTO "event" VALUES(2,'2026-11-23T01:51:56Z','someone','publish','me/ink@2','{"digest": "sha256:39b5992f0943f06fcbb240c9a23e8c204dea85e09584269a25370e3f6996a674"}');
INSERT INTO "event" VALUES(3,'2026-11-23T01:51:56Z','someone','alias','me/ink@prod','{"before": null, "after": 1}');
INSERT INTO "event" VALUES(4,'2026-11-23T01:51:56Z','someone','publish','me/both@1','{"digest": "sha256:9bd12660a8f21bd7a83f6432fdfe841a18fe78743445dbd890198cddc6883ccf"}');
INSERT INTO "event" VALUES(5,'2026-11-23T02:58:56Z','root','yank','me/both@1','{"before": "published", "reason": "blurry"}');
INSERT INTO "event" VALUES(6,'2026-11-23T02:58:56Z','root','unyank','me/both@1','{"before": "yanked", "reason": ""}');
INSERT INTO "event" VALUES(7,'2026-11-23T02:58:56Z','root','alias','me/ink@old','{"before": null, "after": 1}');
CREATE TABLE file_hash (
	version_id INTEGER NOT NULL, 
	path VARCHAR NOT NULL, 
	sha256 VARCHAR NOT NULL, 
	data_sha256 VARCHAR NOT NULL, 
	autov1 VARCHAR NOT NULL, 
	PRIMARY KEY (version_id, path), 
	FOREIGN KEY(version_id) REFERENCES version (id)
);
INSERT INTO "file_hash" VALUES(1,'pytorch_lora_weights.safetensors','0f0cb3d3449201a5807588c94a2f8e5b3ea3758fa15760557e53bd87eaedc59a','6b64387fb1fca033266b9f1bc5e7494d2ac59eeadaa3f6a26771ab58688b34cf','e3b0c442');
INSERT INTO "file_hash" VALUES(2,'pytorch_lora_weights.safetensors','35623dc5447683b7e0e2f1999aa19eadf7d2f1c91d3dc80c3ffe5e277cf120ec','be46934fb9b5f9ece2003553280c5f1247fc0f6a48ae5000b8c531ba5044368d','e3b0c442');
CREATE TABLE parent (
	version_id INTEGER NOT NULL, 
	position INTEGER NOT NULL, 
	digest VARCHAR NOT NULL, 
	name VARCHAR NOT NULL, 
	weight VARCHAR NOT NULL, 
	PRIMARY KEY (version_id, position), 
	FOREIGN KEY(version_id) REFERENCES version (id)
);
INSERT INTO "parent" VALUES(3,1,'sha256:fa9270f8ba59de952824a9059362590ae0ce2da4bc568c87cba816d0e7eb7ae6','me/ink@1','0.7');
CREATE TABLE preview (
	id INTEGER NOT NULL, 
	version_id INTEGER NOT NULL, 
	sha256 VARCHAR NOT NULL, 
	size INTEGER NOT NULL, 
	prompt VARCHAR NOT NULL, 
	seed INTEGER, settings VARCHAR DEFAULT '{}' NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (version_id, sha256), 
	FOREIGN KEY(version_id) REFERENCES version (id)
);
CREATE TABLE remote (
	name VARCHAR NOT NULL, 
	url VARCHAR NOT NULL, 
	PRIMARY KEY (name)
);
CREATE TABLE tag (
	adapter_id INTEGER NOT NULL, 
	tag VARCHAR NOT NULL, 
	PRIMARY KEY (adapter_id, tag), 
	FOREIGN KEY(adapter_id) REFERENCES adapter (id)
);
INSERT INTO "tag" VALUES(1,'portrait');
CREATE TABLE version (
	id INTEGER NOT NULL, 
	adapter_id INTEGER NOT NULL, 
	number INTEGER NOT NULL, 
	digest VARCHAR NOT NULL, 
	manifest VARCHAR NOT NULL, 
	state VARCHAR NOT NULL, 
	yank_reason VARCHAR NOT NULL, 
	message VARCHAR NOT NULL, 
	author VARCHAR NOT NULL, 
	created VARCHAR NOT NULL, architecture VARCHAR DEFAULT '' NOT NULL, algorithm VARCHAR DEFAULT '' NOT NULL, licence VARCHAR DEFAULT '' NOT NULL, operation VARCHAR DEFAULT '' NOT NULL, ranks VARCHAR DEFAULT '' NOT NULL, payload_digest VARCHAR DEFAULT '' NOT NULL, parameters INTEGER DEFAULT '0' NOT NULL, size INTEGER DEFAULT '0' NOT NULL, alphas VARCHAR DEFAULT '' NOT NULL, targets VARCHAR DEFAULT '' NOT NULL, linked VARCHAR DEFAULT '' NOT NULL, metrics VARCHAR DEFAULT '{}' NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (adapter_id, number), 
	UNIQUE (adapter_id, digest), 
	FOREIGN KEY(adapter_id) REFERENCES adapter (id)
);
INSERT INTO "version" VALUES(1,1,1,'sha256:fa9270f8ba59de952824a9059362590ae0ce2da4bc568c87cba816d0e7eb7ae6','{"algorithm":"lora","architecture":"mini","base_identity":"sha256:c125458c598294d3e021f707a1526e94c818a3d1fc2cf671432ea3ad88d89f18","files":[{"path":"pytorch_lora_weights.safetensors","sha256":"0f0cb3d3449201a5807588c94a2f8e5b3ea3758fa15760557e53bd87eaedc59a","size":2348}],"format":1,"licence":"","lineage":{"operation":"imported"},"recommended_weight":"","trigger_words":["inkwash"]}','published','','','someone','2026-11-23T01:51:56Z','mini','lora','','imported','2','6b64387fb1fca033266b9f1bc5e7494d2ac59eeadaa3f6a26771ab58688b34cf',512,2348,'','','','{}');
INSERT INTO "version" VALUES(2,1,2,'sha256:39b5992f0943f06fcbb240c9a23e8c204dea85e09584269a25370e3f6996a674','{"algorithm":"lora","architecture":"mini","base_identity":"sha256:c125458c598294d3e021f707a1526e94c818a3d1fc2cf671432ea3ad88d89f18","files":[{"path":"pytorch_lora_weights.safetensors","sha256":"35623dc5447683b7e0e2f1999aa19eadf7d2f1c91d3dc80c3ffe5e277cf120ec","size":2348}],"format":1,"licence":"","lineage":{"operation":"imported"},"recommended_weight":"","trigger_words":["inkwash"]}','published','','','someone','2026-11-23T01:51:56Z','mini','lora','','imported','2','be46934fb9b5f9ece2003553280c5f1247fc0f6a48ae5000b8c531ba5044368d',512,2348,'','','','{}');
INSERT INTO "version" VALUES(3,2,1,'sha256:9bd12660a8f21bd7a83f6432fdfe841a18fe78743445dbd890198cddc6883ccf','{"algorithm":"lora","architecture":"mini","base_identity":"sha256:c125458c598294d3e021f707a1526e94c818a3d1fc2cf671432ea3ad88d89f18","files":[{"path":"pytorch_lora_weights.safetensors","sha256":"2ca75d9d2131a40b37ab9e856016ffd9871216ddea9f3e7ef9c0346a52264e52","size":2348}],"format":1,"licence":"","lineage":{"operation":"merged","parent.1":"sha256:fa9270f8ba59de952824a9059362590ae0ce2da4bc568c87cba816d0e7eb7ae6","parent.1.name":"me/ink@1","parent.1.weight":"0.7"},"recommended_weight":"","trigger_words":[]}','published','','','someone','2026-11-23T01:51:56Z','mini','lora','','merged','','',0,2348,'','','','{}');
CREATE INDEX ix_version_adapter_id ON version (adapter_id);
CREATE INDEX ix_version_digest ON version (digest);
CREATE INDEX ix_document_sha256 ON document (sha256);
CREATE INDEX ix_document_version_id ON document (version_id);
CREATE INDEX ix_preview_version_id ON preview (version_id);
CREATE INDEX ix_preview_sha256 ON preview (sha256);
CREATE INDEX ix_tag_tag ON tag (tag);
CREATE INDEX ix_version_payload_digest ON version (payload_digest);
CREATE INDEX ix_adapter_updated ON adapter (updated, id);
CREATE INDEX ix_file_hash_sha256 ON file_hash (sha256);
CREATE INDEX ix_file_hash_autov1 ON file_hash (autov1);
CREATE INDEX ix_file_hash_data_sha256 ON file_hash (data_sha256);
CREATE INDEX ix_parent_digest ON parent (digest);
CREATE VIRTUAL TABLE search USING fts5(name, title, description, triggers, tags, tokenize = 'unicode61 remove_diacritics 2', prefix = '2 3');
INSERT INTO search (rowid, name, title, description, triggers, tags) VALUES(1,'me/ink','Ink Wash','drawings in ink','inkwash','portrait');
INSERT INTO search (rowid, name, title, description, triggers, tags) VALUES(2,'me/both','','','','');
COMMIT;
