<?php $GLOBALS['files']['templates/front.php'] = '@RELEASE@' ?>
<h1><?= htmlspecialchars($config['name']) ?></h1>
<p>Release @RELEASE@</p>
