/*-------------------------------------------------------------------------
 *
 * registry.c
 *		Which databases have the extension.
 *
 * CREATE EXTENSION leaves a setting for its database in a shared catalog, so
 * that no database has to be entered just to look.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_db_role_setting.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/parsenodes.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"

#include "registry.h"

static bool setting_is_on(Datum settings);

/* their OIDs; can only be read from within some database */
List *
evi_registry_databases(void)
{
	List	   *result = NIL;
	Relation	rel = table_open(DbRoleSettingRelationId, AccessShareLock);
	SysScanDesc scan;
	ScanKeyData key;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_db_role_setting_setrole, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(InvalidOid));
	scan = systable_beginscan(rel, InvalidOid, false, NULL, 1, &key);
	while ((tuple = systable_getnext(scan)) != NULL)
	{
		bool		isnull;
		Datum		settings = heap_getattr(tuple, Anum_pg_db_role_setting_setconfig,
											RelationGetDescr(rel), &isnull);

		if (!isnull && setting_is_on(settings))
			result = lappend_oid(result,
								 ((Form_pg_db_role_setting) GETSTRUCT(tuple))->setdatabase);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return result;
}

/* ALTER DATABASE ... SET evinbox.installed, also for whoever may not, but may copy a database */
void
evi_registry_set(Oid database, bool is_registered)
{
	VariableSetStmt *statement = makeNode(VariableSetStmt);
	A_Const    *on = makeNode(A_Const);
	Oid			userid;
	int			sec_context;

	on->val.sval = *makeString("on");
	statement->kind = is_registered ? VAR_SET_VALUE : VAR_RESET;
	statement->name = "evinbox.installed";
	statement->args = is_registered ? list_make1(on) : NIL;
	GetUserIdAndSecContext(&userid, &sec_context);
	SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID, sec_context | SECURITY_LOCAL_USERID_CHANGE);
	AlterSetting(database, InvalidOid, statement);
	SetUserIdAndSecContext(userid, sec_context);
}

static bool
setting_is_on(Datum settings)
{
	Datum	   *elements;
	int			nelements;

	deconstruct_array(DatumGetArrayTypeP(settings), TEXTOID, -1, false, TYPALIGN_INT,
					  &elements, NULL, &nelements);
	for (int i = 0; i < nelements; i++)
		if (strcmp(TextDatumGetCString(elements[i]), "evinbox.installed=on") == 0)
			return true;
	return false;
}
